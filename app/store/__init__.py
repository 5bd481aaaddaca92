"""The tables and all SQL: functions that take a connection. No other package has SQL."""
