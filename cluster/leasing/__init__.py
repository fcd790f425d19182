"""Who has which group, and when one may be given or trained: pure rules, no Ray. Fleets and the controller come in."""
