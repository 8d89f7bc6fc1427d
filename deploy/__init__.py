"""What runs live. Nothing yet: programs are recorded, learned, replayed, verified and built, not deployed."""
