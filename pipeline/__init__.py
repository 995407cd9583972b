"""The two ways through the house: from a data set to a thin network, and from a thin network to a student."""
