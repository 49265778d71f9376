"""Request + Listing -> Plan: values in, values out, no I/O at all."""
