"""Method specs: how the response of params to hparams is approximated."""
