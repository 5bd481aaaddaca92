"""The tables and all SQL: functions that take a connection. Nothing else in the project has SQL."""
