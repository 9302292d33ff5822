"""Worker processes that may hang, crash or be killed without harm to the process that they work for."""
