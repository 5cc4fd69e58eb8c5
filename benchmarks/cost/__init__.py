"""What obskit adds to a request, beside what the field adds, in one interleaved run."""
