"""The parts of captioner `narrator`: what it measures on its charts, and the words for that."""
