"""The subcommands, one file a room. They import typer only; what does the work is imported when it runs."""
