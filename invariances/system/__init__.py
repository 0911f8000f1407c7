"""What knows nothing of this project's subject: errors, files, seeds, machine, weights."""
