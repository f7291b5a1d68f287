# Sourced: the demo's orders for a script that looks at them through plugins. Needs `router` and an empty folder `work`, which goes at the end.
shop=$work/shop
demo=
# The folder goes after the demo, or that would wait for its table.
trap '[ -z "$demo" ] || { kill "$demo" 2>/dev/null && wait "$demo"; } || true; rm -rf "$work"' EXIT

# The demo makes orders in the background; its configuration is $shop/anabranch.toml.
open_shop() {
  "$router" demo --dir "$shop" >"$work/demo.log" 2>&1 &
  demo=$!
  for _ in $(seq 300); do
    [ -d "$shop/lake/orders/_delta_log" ] && break
    sleep 0.1
  done
}
