// Tables, and the sections of the page that they are in.
function table(heads, rows, name = "plain") {
  const numeric = (value, place) =>
    place > 0 && /^[+\-–<\d]/.test(typeof value === "string" ? value : value.textContent);
  const attributes = (value, place) => (value !== undefined && numeric(value, place) ? { class: "number" } : {});
  // A heading stands as the cells below it do.
  const head = element(
    "tr",
    {},
    heads.map((value, place) => element("th", attributes((rows[0] || [])[place], place), [value])),
  );
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      row.map((value, place) => element("td", attributes(value, place), [value])),
    ),
  );
  return element("table", { class: name }, [element("thead", {}, [head]), element("tbody", {}, body)]);
}

function reveal(id, ...children) {
  at(id).hidden = false;
  at(id).append(...children);
}

const marked = (text, kind) => element("span", { class: kind }, [text]);
