"""The model as transformers knows it: configuration, processor, model class."""
