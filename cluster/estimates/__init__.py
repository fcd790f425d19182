"""What samples are worth: numbers per problem, their means and intervals. Pure: no Ray, no engine, no disk; all rooms
to its right come in."""
