"""Users, roles and what they may do, as replicated state.  Knows neither passwords in clear nor tokens."""
