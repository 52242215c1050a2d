"""Room for code of other libraries: loops and threads in which it may hang, and a door to the policy."""
