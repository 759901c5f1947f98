"""Streaming decode and encode of video and audio through PyAV."""
