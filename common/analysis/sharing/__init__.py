"""Results for somebody else, without what is nobody's business."""
