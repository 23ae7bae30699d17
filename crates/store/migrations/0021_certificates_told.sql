-- Whoever serves by a certificate that a public authority gives is told when another control plane got a new one.
CREATE FUNCTION tell_of_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sandbar_certificates', '');
    RETURN NULL;
END;
$$;
CREATE TRIGGER platform_secrets_tell AFTER INSERT OR UPDATE ON platform_secrets
    FOR EACH ROW WHEN (NEW.name LIKE 'acme-certificate/%') EXECUTE FUNCTION tell_of_certificate();
