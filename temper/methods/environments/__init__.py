"""Methods that are about where, with what and with whom a policy acts."""
