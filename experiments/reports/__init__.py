"""Tables and plots of results beside published figures."""
