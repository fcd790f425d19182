"""`bonfire view` and `bonfire report`: pages about what runs and evaluations left on disk, and the server of the
former. Commands come in by `server` and `standalone`. No Ray, no torch; nothing a run writes is changed.
"""
