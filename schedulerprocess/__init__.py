"""What every process of VMStack is made of: command line, settings, events, its end."""
