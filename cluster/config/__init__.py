"""The whole run as one typed config, and how it is read. Imports other rooms' settings only; everybody comes in."""
