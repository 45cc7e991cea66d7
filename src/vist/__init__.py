"""VIST: distant text is read as pages, a few visual tokens each; near text stays text.

Owns the public names and makes VIST folders known to transformers' Auto classes. Imports neither torch nor
transformers until a name that needs them is asked for.

Decisions
- Names are imported when they are first used, so `import vist` costs milliseconds.
- `AutoConfig` and `AutoProcessor` must know VIST as soon as transformers is there, whichever was imported first. So
  an import hook waits for the two modules that hold their registries and registers right after they have run; if they
  have run already, it registers at once. The model class follows when a config is built (model/configuration.py).
- `render` is a package and a function: the package is callable, so the name means the same whoever imported what first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vist.errors import CheckpointError, RenderLossError, VistError

if TYPE_CHECKING:
    from vist.model.configuration import VistConfig
    from vist.model.processing import VistProcessor
    from vist.model.vist import VistForConditionalGeneration
    from vist.model.vist2 import Vist2ForCausalLM
    from vist.model.vist2_configuration import Vist2Config
    from vist.model.vist2_processing import Vist2Processor
    from vist.render import Pages, PageStyle, render

__version__ = "0.1.0"

_HOMES = {
    "PageStyle": "vist.render",
    "Pages": "vist.render",
    "Vist2Config": "vist.model.vist2_configuration",
    "Vist2ForCausalLM": "vist.model.vist2",
    "Vist2Processor": "vist.model.vist2_processing",
    "VistConfig": "vist.model.configuration",
    "VistForConditionalGeneration": "vist.model.vist",
    "VistProcessor": "vist.model.processing",
}

__all__ = [
    "CheckpointError",
    "PageStyle",
    "Pages",
    "RenderLossError",
    "Vist2Config",
    "Vist2ForCausalLM",
    "Vist2Processor",
    "VistConfig",
    "VistError",
    "VistForConditionalGeneration",
    "VistProcessor",
    "load",
    "render",
]

PACKAGED_MODELS = Path(__file__).parent / "assets" / "models"
_VIST = ("vist.model.vist:VistForConditionalGeneration", "vist.model.processing:VistProcessor")
_TEXT_CONTEXT = (
    "vist.baselines.text_context:TextContextForConditionalGeneration",
    "vist.baselines.processing:TextContextProcessor",
)
_REDUCED = ("vist.baselines.reduced:ReducedVistForConditionalGeneration", "vist.model.processing:VistProcessor")
_VIST2 = ("vist.model.vist2:Vist2ForCausalLM", "vist.model.vist2_processing:Vist2Processor")
#: model_type -> model and processor of what `load` can load besides VIST
_OTHERS = {"vist_text_context": _TEXT_CONTEXT, "vist_reduced": _REDUCED, "vist2": _VIST2}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "render":
        return import_module("vist.render")
    if name not in _HOMES:
        raise AttributeError(f"module 'vist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})


def load(name_or_path: str | Path = "vist-nano") -> tuple[VistForConditionalGeneration, VistProcessor]:
    """A model, ready to generate, and its processor: the name of a packaged model, a folder or a Hub id.

    A folder of `save_adapter` is loaded with the backbones it names. A folder of one of the methods that VIST is
    compared with (`vist.baselines`) is loaded as what it is.

    Raises CheckpointError when it is missing or cannot be loaded.
    """
    packaged = PACKAGED_MODELS / str(name_or_path)
    source = str(packaged if packaged.is_dir() else name_or_path)
    model_class, processor_class = _classes(source)
    adapter = (Path(source) / "adapter.json").is_file()
    model = model_class.from_adapter(source) if adapter else model_class.from_pretrained(source)
    return model.eval(), processor_class.from_pretrained(source)


def _classes(source: str) -> tuple[Any, Any]:
    """Model and processor class for a folder; VIST's for anything whose config says nothing else."""
    config = Path(source) / "config.json"
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
    except (OSError, ValueError, AttributeError):
        model_type = None  # loading says what is wrong with it
    homes = (home.split(":") for home in _OTHERS.get(str(model_type), _VIST))
    model_class, processor_class = (getattr(import_module(module), name) for module, name in homes)
    return model_class, processor_class


class _CallablePackage(ModuleType):
    """The type of `vist.render`, which is a package and, called, its own function of that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw a text as pages; see `vist.render.render`."""
        return self.render(*args, **kwargs)


def _make_callable(package: ModuleType) -> None:
    package.__class__ = _CallablePackage


def _register_config(_: ModuleType) -> None:
    import_module("vist.model.configuration")
    import_module("vist.model.vist2_configuration")


def _register_processor(_: ModuleType) -> None:
    import_module("vist.model.processing")
    import_module("vist.model.vist2_processing")


#: module -> what to do once it has been imported, by whomever
_AFTER_IMPORT: dict[str, Callable[[ModuleType], None]] = {
    "vist.render": _make_callable,
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.processing_auto": _register_processor,
}


class _AfterImport(MetaPathFinder):
    """Finds the modules above as usual and lets their execution be followed by what is due."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec of a module we wait for; None (look elsewhere) for any other."""
        if fullname not in _AFTER_IMPORT:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_follow_up(module: ModuleType) -> None:
            run(module)
            _AFTER_IMPORT[fullname](module)

        spec.loader.exec_module = run_and_follow_up  # type: ignore[method-assign]
        return spec


def _wait_for_imports() -> None:
    sys.meta_path.insert(0, _AfterImport())  # first: a follow-up may import one of the modules that are waited for
    for name, follow_up in _AFTER_IMPORT.items():
        if name in sys.modules:
            follow_up(sys.modules[name])


_wait_for_imports()
