"""The model as transformers knows it: configuration, processor, model class.

Reads transformers' table of configs first: our configs are entered into it as soon as it is there (vist/__init__.py),
and must not be half imported at that moment.
"""

import transformers.models.auto.configuration_auto  # noqa: F401
