"""What the API answers, one file a noun, where that is more than its route should hold."""
