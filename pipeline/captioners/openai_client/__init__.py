"""How captioner `openai` talks to a server: the event loop, the bodies, the bound in flight, the bill."""
