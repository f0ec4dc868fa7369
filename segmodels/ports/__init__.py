"""Papers as other code lines compute them: subclasses that override what differs, reached by `from_released`."""
