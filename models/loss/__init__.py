"""What heads are trained by; a module for each family (see `models.loss.criterion`)."""
