"""Networks, data-set files and hyper-parameter files: installed as package data, found by `models.cfg_path`."""
