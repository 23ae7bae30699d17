mod hosts;
mod sandboxes;
mod snapshots;
