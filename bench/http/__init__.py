"""The web server under load: hot calls beside FastAPI, reads beside an empty mesh."""
