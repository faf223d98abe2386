"""One module per command; each is imported when it runs. ``apps`` maps its command's name to a typer application."""
