"""What `obskit export` writes: alert rules with a service's own objectives, dashboards, provisioning and runbooks."""
