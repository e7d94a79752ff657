"""Schedules: in which steps a runtime is fed its tokens, and its values put together by position again."""
