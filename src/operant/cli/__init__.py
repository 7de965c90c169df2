"""The command line: one table of commands, each a module that is imported only when called."""
