from video_dit.pipeline import VideoPipeline  # noqa: F401
