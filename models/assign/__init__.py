"""Which places of the heads answer for which object; a module for each way, and the criteria choose theirs."""
