"""The whole run as one typed config, and how it is read. Imports nothing but other roles' settings; nearly
everybody comes in."""
