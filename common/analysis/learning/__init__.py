"""What makes it a course: guesses, beliefs, self-test, checklist."""
