// Reads [{"language": "logql" | "traceql", "query": "..."}] on stdin and writes one list per query: where Grafana's
// grammar met something it does not know, as {"from", "to", "text"}. An empty list is a query that parses.
import { parser as logql } from "@grafana/lezer-logql";
import { parser as traceql } from "@grafana/lezer-traceql";
import { readFileSync } from "node:fs";

const parsers = { logql, traceql };

function errors({ language, query }) {
  const found = [];
  parsers[language].parse(query).iterate({
    enter(node) {
      if (node.type.isError) found.push({ from: node.from, to: node.to, text: query.slice(node.from, node.to) });
    },
  });
  return found;
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(errors)));
