"""Programs for those who work on the project: how much of it the tests run, and how much of it they would miss."""
