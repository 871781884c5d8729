(() => {
  const PAGE = 100;
  const ORDER = { error: 0, warning: 1, info: 2 };

  function summarise() {
    const lengths = data.lengths;
    const read = data.objective ? `, checked as objective ${data.objective} reads them` : "";
    const checked = `${counted(data.checked, "row")} of ${data.files.join(" and ")}${read}`;
    const parts = [`${checked}; nothing was found in ${number(data.clean)}.`];
    if (lengths) {
      const targets = lengths.targets ? `, of which ${number(lengths.targets)} train` : "";
      parts.push(
        `${number(lengths.total)} ${lengths.unit}${targets}; median ${number(lengths.median)} a row, ` +
          `99 % up to ${number(lengths.p99)}, longest ${number(lengths.longest)}.`,
      );
    }
    const left = data.rows.filter((row) => !row.ids && !row.strings).length;
    if (left) {
      const listed = left === 1 ? "is listed without its" : "are listed without their";
      parts.push(`${counted(left, "row")} with findings ${listed} tokens, to keep this page small.`);
    }
    at("summary").textContent = parts.join(" ");
    const skipped = data.not_checked.length
      ? [`Not checked, since no model was named: ${data.not_checked.join(", ")}.`]
      : [];
    at("skipped").textContent = [...skipped, ...data.not_done.map((text) => `Not done: ${text}.`)].join(" ");
  }

  /* Texts name commands and options between backticks, as messages in the terminal do. */
  function marked(text) {
    return text.split("`").map((part, place) => (place % 2 ? element("code", {}, [part]) : part));
  }

  function listRules() {
    const body = at("rules").tBodies[0];
    if (!data.rules.length) body.append(element("tr", {}, [element("td", {}, ["Nothing was found."])]));
    data.rules.forEach((rule, place) => {
      const button = element("button", { type: "button", class: "link" }, [rule.name]);
      button.addEventListener("click", () => {
        at("severity").value = "all";
        at("rule").value = String(place);
        refresh();
        at("filters").scrollIntoView();
      });
      body.append(
        element("tr", {}, [
          element("td", {}, [element("span", { class: `badge ${rule.severity}` }, [rule.severity])]),
          element("td", {}, [button]),
          element("td", { class: "number" }, [number(rule.count)]),
          element("td", {}, [
            ...marked(`Rows that ${rule.summary}.`),
            element("br"),
            element("span", { class: "quiet" }, marked(`Remedy: ${rule.remedy}`)),
          ]),
        ]),
      );
    });
  }

  function charts() {
    for (const one of data.histograms) at("charts").append(histogram(one));
    if (!data.frequent.length) return;
    const rows = data.frequent.map(([id, count, text]) =>
      element("tr", {}, [
        element("td", { class: "number" }, [String(id)]),
        element("td", {}, [element("code", {}, [JSON.stringify(text)])]),
        element("td", { class: "number" }, [number(count)]),
      ]),
    );
    at("charts").append(
      element("figure", {}, [
        element("div", { class: "frequent", tabindex: "0" }, [element("table", {}, [element("tbody", {}, rows)])]),
        element("figcaption", {}, ["the most frequent tokens of the rows in this page: id, text, count"]),
      ]),
    );
  }

  // ---------------------------------------------------------------- rows

  const searched = new Map();
  function textOf(row) {
    if (!searched.has(row)) {
      const tokens = row.ids ? row.ids.map((id, place) => tokenText(row, place)).join("") : "";
      const strings = (row.strings || []).map(([, text]) => text).join("\n");
      searched.set(
        row,
        `${row.where}\n${row.findings.map(([, detail]) => detail).join("\n")}\n${tokens}\n${strings}`.toLowerCase(),
      );
    }
    return searched.get(row);
  }

  function tokenText(row, place) {
    return row.odd && place in row.odd ? row.odd[place] : data.texts[row.ids[place]];
  }

  let matching = [],
    page = 0,
    chosen = null;

  function refresh() {
    const severity = at("severity").value,
      rule = at("rule").value,
      wanted = at("search").value.trim().toLowerCase();
    matching = data.rows.filter((row) => {
      if (severity === "clean" && row.findings.length) return false;
      if (severity === "found" && !row.findings.length) return false;
      if (severity in ORDER && !row.findings.some(([place]) => data.rules[place].severity === severity)) return false;
      if (rule !== "all" && !row.findings.some(([place]) => place === Number(rule))) return false;
      if (!wanted) return true;
      return textOf(row).includes(wanted) || (/^\d+$/.test(wanted) && row.ids && row.ids.includes(Number(wanted)));
    });
    page = 0;
    list();
    show(matching[0] || null);
  }

  function list() {
    const pages = Math.max(1, Math.ceil(matching.length / PAGE));
    at("count").textContent = counted(matching.length, "row");
    at("page").textContent = `page ${number(page + 1)} of ${number(pages)}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page + 1 >= pages;
    at("rows").replaceChildren(
      ...matching.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
        const marks = row.findings.map(([place]) =>
          element("span", { class: `badge ${data.rules[place].severity}` }, [` ${data.rules[place].name}`]),
        );
        const button = element("button", { type: "button", "aria-current": String(row === chosen) }, [
          row.where,
          ...marks,
        ]);
        button.addEventListener("click", () => {
          show(row);
        });
        button.row = row;
        return element("li", {}, [button]);
      }),
    );
  }

  function show(row) {
    chosen = row;
    for (const item of at("rows").children)
      item.firstChild.setAttribute("aria-current", String(item.firstChild.row === row));
    if (!row) {
      at("row").replaceChildren(element("p", { class: "quiet" }, ["No row fits."]));
      return;
    }
    const parts = [element("h3", {}, [row.where])];
    for (const [place, detail] of row.findings) {
      const rule = data.rules[place];
      parts.push(
        element("p", {}, [
          element("span", { class: `badge ${rule.severity}` }, [`${rule.severity} ${rule.name}`]),
          detail ? `: ${detail}` : "",
        ]),
      );
    }
    if (row.ids) parts.push(...tokens(row));
    else if (row.strings) {
      for (const [path, text] of row.strings) {
        parts.push(element("p", { class: "quiet" }, [path]), element("div", { class: "tokens" }, [text]));
      }
    } else parts.push(element("p", { class: "quiet" }, ["The tokens of this row are not in the page."]));
    at("row").replaceChildren(...parts);
  }

  function tokens(row) {
    const box = element("div", { class: "tokens" }),
      lines = [];
    let start = 0;
    for (const [end, trained, field] of row.spans) {
      const name = data.fields[field];
      let text = "";
      for (let place = start; place < end; place += 1) {
        const piece = tokenText(row, place);
        text += piece;
        const children = (piece || "·")
          .split("\n")
          .flatMap((part, index) => (index ? [element("span", { class: "return" }, ["⏎"]), "\n", part] : [part]));
        box.append(
          element(
            "span",
            {
              class: trained ? "token trained" : "token",
              title: `token ${place}, id ${row.ids[place]}\n${trained ? "trained" : "not trained"}\n${name}`,
            },
            children,
          ),
        );
      }
      lines.push(
        element("tr", {}, [
          element("td", { class: "number" }, [`${start} to ${end - 1}`]),
          element("td", {}, [trained ? "trained" : ""]),
          element("td", {}, [name]),
          element("td", {}, [element("code", {}, [text.length > 90 ? `${text.slice(0, 89)}…` : text])]),
        ]),
      );
      start = end;
    }
    const cut = row.ids.length < row.length ? `; the first ${number(row.ids.length)} are shown` : "";
    const heads = ["tokens", "", "field", "text"].map((name) => element("th", {}, [name]));
    const ids = element("details", {}, [element("summary", {}, ["ids"]), element("code", {}, [row.ids.join(" ")])]);
    return [
      element("p", { class: "quiet" }, [`${number(row.length)} tokens, ${number(row.targets)} trained${cut}`]),
      box,
      element("table", { class: "spans" }, [
        element("thead", {}, [element("tr", {}, heads)]),
        element("tbody", {}, lines),
      ]),
      ids,
    ];
  }

  function choices() {
    const severities = [
      ["all", "all rows of this page"],
      ["found", "rows with findings"],
      ["error", "errors"],
      ["warning", "warnings"],
      ["info", "infos"],
      ["clean", "rows without findings"],
    ];
    for (const [value, name] of severities) at("severity").append(element("option", { value }, [name]));
    at("rule").append(element("option", { value: "all" }, ["any"]));
    data.rules.forEach((rule, place) =>
      at("rule").append(element("option", { value: String(place) }, [`${rule.name} (${number(rule.count)})`])),
    );
    for (const id of ["severity", "rule"]) at(id).addEventListener("change", refresh);
    if (data.rules.length) at("severity").value = "found";
    let waiting = 0;
    at("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(refresh, 200);
    });
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("previous").addEventListener("click", () => {
      page -= 1;
      list();
    });
    at("next").addEventListener("click", () => {
      page += 1;
      list();
    });
  }

  summarise();
  listRules();
  charts();
  choices();
  refresh();
})();
