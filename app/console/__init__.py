"""The pages for people: what the API knows, within the role of the key that they signed in with."""
