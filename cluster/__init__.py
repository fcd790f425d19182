"""The run as a whole: Ray, the controller, evaluation, the command line."""
