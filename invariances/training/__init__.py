"""What learns: flows, autoencoders, small classifiers and readers."""
