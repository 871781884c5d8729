"""The two backends that compute a model, behind one interface: veneer's own decoder, and transformers."""
