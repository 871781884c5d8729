// Single rows side by side, with marks where texts differ.
const pieces = (list) => list.map(([text, same]) => (same ? text : element("mark", {}, [text])));

function side(name, list, exact, loss) {
  const notes = [name];
  if (finite(exact)) notes.push(exact === 1 ? "exact" : "not exact");
  if (finite(loss)) notes.push(`${loss.toFixed(3)} nats a token`);
  return element("div", { class: "side" }, [
    element("h4", {}, [notes.join(", ")]),
    element("div", { class: "answer" }, list.length ? pieces(list) : ["(nothing)"]),
  ]);
}

function card(row) {
  const sides = [side("expected", row.reference), side("base", row.base, row.exact[0], row.losses[0])];
  if (row.adapter) sides.push(side("adapter", row.adapter, row.exact[1], row.losses[1]));
  return element("article", { class: "card" }, [
    element("h3", {}, [row.where]),
    element("div", { class: "question" }, [row.question]),
    element("div", { class: "sides" }, sides),
  ]);
}

function rows() {
  if (!data.answered) return;
  const both = report.comparison.length > 0;
  const names = both
    ? [
        "where the adapter changed most for the worse",
        "where the adapter changed most for the better",
        "where nothing became better or worse",
      ]
    : ["the worst rows", "the best rows", ""];
  const lists = ["worst", "best", "same"];
  lists.forEach((key, place) => {
    if (data[key].length) at("which").append(element("option", { value: key }, [names[place]]));
  });
  const show = () => at("cards").replaceChildren(...data[at("which").value].map(card));
  at("which").addEventListener("change", show);
  const listed = lists.reduce((sum, key) => sum + data[key].length, 0);
  at("legend").textContent =
    `${number(listed)} of ${number(data.answered)} rows with an answer; ` +
    "what differs from the other text is marked";
  reveal("rows");
  show();
}
