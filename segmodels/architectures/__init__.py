"""One paper, one file; being here is the registration."""
