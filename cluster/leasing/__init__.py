"""Who has which group, and when one may be given or trained: pure rules, no Ray. Fleets, the controller and
the evaluation come in."""
