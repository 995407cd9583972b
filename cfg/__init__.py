"""Network descriptions, data-set files and hyper-parameter files, found by `models.cfg_path` and installed as package data."""
