-- Ports of a sandbox by name.

-- Who may connect to it, and whether that resumes it; none = the default.
ALTER TABLE sandboxes ADD COLUMN ingress JSONB CHECK (jsonb_typeof(ingress) = 'object');
