"""Parameters, responses and checks that the endpoints share."""
